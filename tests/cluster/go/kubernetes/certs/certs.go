// Package certs writes every key, certificate and kubeconfig that one cluster needs into a folder.
package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// A test cluster lives for minutes; one to try things on may be left standing for months, and works for as long.
const lifetime = 365 * 24 * time.Hour

type options struct {
	dir, name, server string
	serverIPs         []net.IP
	nodes             []string
	nodeIPs           []net.IP
}

// NewCommand is `kube certs`.
func NewCommand() *cobra.Command {
	var o options
	c := &cobra.Command{
		Use:           "certs",
		Short:         "Write the keys, certificates and kubeconfigs of a cluster",
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(*cobra.Command, []string) error { return o.run() },
	}
	f := c.Flags()
	f.StringVar(&o.dir, "dir", "", "folder to write to")
	f.StringVar(&o.name, "name", "", "name of the cluster, in the kubeconfigs")
	f.StringVar(&o.server, "server", "", "URL of the API server")
	f.IPSliceVar(&o.serverIPs, "server-ip", nil, "addresses of the API server")
	f.StringSliceVar(&o.nodes, "node", nil, "names of the nodes")
	f.IPSliceVar(&o.nodeIPs, "node-ip", nil, "addresses of the nodes, in the order of their names")
	return c
}

func (o *options) run() error {
	if len(o.nodes) != len(o.nodeIPs) {
		return fmt.Errorf("%d nodes but %d node addresses", len(o.nodes), len(o.nodeIPs))
	}
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return err
	}
	ca, err := o.authority("ca")
	if err != nil {
		return err
	}
	front, err := o.authority("front-proxy-ca")
	if err != nil {
		return err
	}
	if _, err := newKey(filepath.Join(o.dir, "service-account.key")); err != nil {
		return err
	}

	serving := template("kube-apiserver")
	serving.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	serving.IPAddresses = append([]net.IP{net.IPv4(127, 0, 0, 1)}, o.serverIPs...)
	serving.DNSNames = []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}
	if err := o.issue(ca, "apiserver", serving); err != nil {
		return err
	}
	for i, node := range o.nodes {
		serving := template("system:node:"+node, "system:nodes")
		serving.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		serving.IPAddresses = []net.IP{o.nodeIPs[i]}
		serving.DNSNames = []string{node}
		if err := o.issue(ca, "kubelet-serving-"+node, serving); err != nil {
			return err
		}
	}
	if err := o.issue(ca, "kubelet-client", clientOf("kube-apiserver-kubelet-client", "system:masters")); err != nil {
		return err
	}
	if err := o.issue(front, "front-proxy-client", clientOf("front-proxy-client")); err != nil {
		return err
	}

	users := map[string]*x509.Certificate{
		"admin":              clientOf("kubernetes-admin", "system:masters"),
		"controller-manager": clientOf("system:kube-controller-manager"),
		"scheduler":          clientOf("system:kube-scheduler"),
		"proxy":              clientOf("system:kube-proxy"),
		"provisioner":        clientOf("wisp:volume-provisioner"),
	}
	for _, node := range o.nodes {
		users["kubelet-"+node] = clientOf("system:node:"+node, "system:nodes")
	}
	for file, user := range users {
		if err := o.issue(ca, file, user); err != nil {
			return err
		}
		if err := o.kubeconfig(file); err != nil {
			return err
		}
	}
	return nil
}

type authority struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

func (o *options) authority(name string) (*authority, error) {
	t := template(o.name + "-" + name)
	t.IsCA = true
	t.BasicConstraintsValid = true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	key, err := newKey(filepath.Join(o.dir, name+".key"))
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{parsed, key}, writePEM(filepath.Join(o.dir, name+".crt"), "CERTIFICATE", der)
}

func (o *options) issue(ca *authority, file string, t *x509.Certificate) error {
	key, err := newKey(filepath.Join(o.dir, file+".key"))
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificate(rand.Reader, t, ca.certificate, key.Public(), ca.key)
	if err != nil {
		return err
	}
	return writePEM(filepath.Join(o.dir, file+".crt"), "CERTIFICATE", der)
}

func (o *options) kubeconfig(user string) error {
	read := func(name string) ([]byte, error) { return os.ReadFile(filepath.Join(o.dir, name)) }
	ca, err := read("ca.crt")
	if err != nil {
		return err
	}
	crt, err := read(user + ".crt")
	if err != nil {
		return err
	}
	key, err := read(user + ".key")
	if err != nil {
		return err
	}
	config := clientcmdapi.NewConfig()
	config.Clusters[o.name] = &clientcmdapi.Cluster{Server: o.server, CertificateAuthorityData: ca}
	config.AuthInfos[user] = &clientcmdapi.AuthInfo{ClientCertificateData: crt, ClientKeyData: key}
	config.Contexts[o.name] = &clientcmdapi.Context{Cluster: o.name, AuthInfo: user}
	config.CurrentContext = o.name
	return clientcmd.WriteToFile(*config, filepath.Join(o.dir, user+".kubeconfig"))
}

func template(name string, groups ...string) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err) // no randomness: nothing can be signed
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name, Organization: groups},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(lifetime),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
}

func clientOf(name string, groups ...string) *x509.Certificate {
	t := template(name, groups...)
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return t
}

func newKey(path string) (crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, writePEM(path, "EC PRIVATE KEY", der)
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
